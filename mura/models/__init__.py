"""Networks, from uint8 pictures to logits. They know nothing of MURA's files.

Public are `classifier.AbnormalityClassifier` (what is trained and asked), `backbones.build_network` (any network by
name, with weights), `heads.HEADS`, `cnn.CNNS`, `augment.Augmentation` and `checkpoint.load_checkpoint`.
"""
