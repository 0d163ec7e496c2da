"""Who may ask the page, and what a browser may do with its answers.

A page in the same browser, from anywhere, can send requests to 127.0.0.1. It can name it by a host of its own, whose
address it changes (DNS rebinding), or send it a form. Its Host header, or Origin and Sec-Fetch-Site, give it away.
"""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_NAMES = ("127.0.0.1", "localhost")
ENDED = "mura app was ended before it could answer."
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """The outermost part of the application: refuses what does not come from its own page, and sets HEADERS."""

    def __init__(self, application: ASGIApp, port: int, policy: str) -> None:
        self.application = application
        self.hosts = {f"{name}:{port}" for name in OWN_NAMES} | (set(OWN_NAMES) if port == 80 else set())
        self.headers = HEADERS | {"content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        refused = self.refusal(scope["method"], Headers(scope=scope))
        try:
            await (refused or self.application)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # by the server, when it ends
            await PlainTextResponse(ENDED, 503)(scope, receive, send_with_headers)

    def refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        """Return why a request is refused; None when it may pass."""
        names = headers.getlist("host")
        if len(names) != 1 or names[0].lower() not in self.hosts:
            return PlainTextResponse(f"This page is at {' and '.join(sorted(self.hosts))} only.", 421)
        if method in ("GET", "HEAD"):
            return None
        sites, own = set(headers.getlist("sec-fetch-site")), {f"http://{names[0].lower()}"}
        if sites == {"same-origin"}:
            own.add("null")  # of a form without the script, since the page gives no referrer
        origins = set(headers.getlist("origin"))
        if origins - own or sites - {"same-origin"} or not origins | sites:
            return PlainTextResponse("Only this page itself may send pictures; open it and choose them there.", 403)
        return None
