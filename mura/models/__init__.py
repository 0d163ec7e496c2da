"""Networks, from uint8 pictures to logits. They know nothing of files of MURA."""
