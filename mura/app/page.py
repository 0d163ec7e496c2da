"""The page of `mura app`, and that of the model's card: one file each that asks nobody else for anything."""

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mura.app.answers import Answers, AskedModel, ask, asked_model
from mura.app.guard import Guard
from mura.app.uploads import (
    LIMITS,
    MOST_BYTES,
    MOST_BYTES_TOGETHER,
    MOST_FILES,
    RefusedUpload,
    read_form,
    uploads_in,
)
from mura.errors import MuraError
from mura.inference.predict import Model
from mura.metrics import THRESHOLD
from mura.report import page as report
from mura.report.card import model_card
from mura.runs.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
FAILED = "Something failed that should not; the terminal of mura app says what."

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class ModelPage:
    """The page of one model. One thing is asked of it at a time, in the thread of `worker`."""

    def __init__(self, model: Model, worker: Executor) -> None:
        self.asked: AskedModel = asked_model(model)
        self.is_synthetic = model.is_synthetic()
        self.worker = worker
        self.templates = report.page_templates(TEMPLATES, report.TEMPLATES)
        self.style, self.script = (
            Markup(self.templates.get_template(name).render()) for name in ("page.css", "page.js")
        )

    @property
    def policy(self) -> str:
        """What a browser may load and run: this style, this script, pictures that the page holds, and nothing else."""
        return (
            f"default-src 'none'; img-src data:; style-src '{sha256(self.style)}'; script-src '{sha256(self.script)}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    async def show(self, request: Request) -> Response:
        """Answer with the page, and nothing asked yet."""
        return self.html("page.html.j2", 200, answers=None, fault=None)

    async def show_card(self, request: Request) -> Response:
        """Answer with the card of the model's run or study, or with what is missing for one."""
        try:
            card, fault = await self.in_turn(lambda: card_html(self.asked.model.source)), None
        except MuraError as error:
            card, fault = None, str(error)
        return self.html("card.html.j2", 404 if fault else 200, card=card, fault=fault)

    async def answer(self, request: Request) -> Response:
        """Answer with the page and what the model says of the pictures in a form, or with why it says nothing."""
        try:
            async with AsyncExitStack() as stack:
                form = await read_form(request)
                stack.push_async_callback(form.close)
                return self.html("page.html.j2", 200, answers=await self.answers_to(form), fault=None)
        except RefusedUpload as error:
            return self.refuse(error.status, str(error))
        except MuraError as error:
            return self.refuse(422, str(error))
        except OSError as error:
            return self.refuse(507, f"The pictures can't be put into a temporary folder ({error.strerror}).")
        except ClientDisconnect:
            return Response(status_code=400)

    async def answers_to(self, form: FormData) -> Answers:
        """Return what the model says of a form's pictures. Raises MuraError when the form or the pictures won't do."""
        uploads, extremity = uploads_in(form), form.get("extremity") or None
        known = self.asked.model.extremities
        if self.asked.model.needs_extremity and extremity not in known:
            raise RefusedUpload(422, f"This model must know what the pictures show: choose one of {', '.join(known)}.")
        shown = str(extremity) if self.asked.model.needs_extremity else None
        return await self.in_turn(lambda: ask(self.asked, uploads, shown, "one_study" in form))

    async def in_turn(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.worker, work)

    def refuse(self, status: int, sentence: str) -> Response:
        return self.html("page.html.j2", status, answers=None, fault=sentence)

    def html(self, template: str, status: int, **content: Any) -> Response:
        """Return a page, with what stands on all of them."""
        return HTMLResponse(
            self.templates.get_template(template).render(
                asked=self.asked, model=self.asked.model, is_synthetic=self.is_synthetic, style=self.style,
                script=self.script, threshold=THRESHOLD, limits=LIMITS,
                most_files=MOST_FILES, most_bytes=MOST_BYTES, most_bytes_together=MOST_BYTES_TOGETHER, **content,
            ),
            status,
        )  # fmt: skip


def application(model: Model, port: int, worker: Executor) -> ASGIApp:
    """Return the pages of a model, for a server on a port of this machine; `worker` has one thread."""
    page = ModelPage(model, worker)
    routes = [
        Route("/", page.show),
        Route("/", page.answer, methods=["POST"]),
        Route("/card", page.show_card),
    ]

    async def fail(request: Request, error: Exception) -> Response:
        log.error("A fault of mura app:", exc_info=error)
        return page.refuse(500, FAILED)

    return Guard(Starlette(routes=routes, exception_handlers={Exception: fail}), port, page.policy)


def sha256(text: str) -> str:
    """Return how a Content-Security-Policy names a style or script that stands in the page."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def card_html(place: Path) -> Markup:
    """Return the card of the run or study that a model comes from. Raises MuraError when there is none, or no run."""
    folder = place if place.is_dir() else place.parent.parent
    if not place.is_dir() and (place.parent != RunFolder(folder).checkpoints or not RunFolder(folder).finished):
        raise MuraError(
            f"{place} lies in no finished run folder, and a card is written from what one holds: "
            "mura card RUN_FOLDER, where the model was trained."
        )
    text = model_card(folder)
    body = text.partition("\n---\n")[2]  # behind the front matter, which is for programs
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(body)
    scrolling = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
    html = html.replace("<table>", scrolling).replace("</table>", "</table></div>")
    return Markup(re.sub(r' style="text-align:\w+"', "", html))  # which the page's policy forbids
