"""Published splits: the test speakers of each fold."""

from __future__ import annotations


def _speakers(corpus: str, *folds: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"{corpus}-{speaker}" for speaker in fold.split()) for fold in folds)


# emobox-*: EmoBox (arXiv 2406.07162); xlsr-ravdess: cristinalunaj/MMEmotionRecognition;
# audeering-cremad: version 1.1.0 of audeering's split, by actor; tess-talker: train on one talker, test on the other.
NAMED_FOLDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "emobox-ravdess": _speakers(
        "ravdess", "01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22"
    ),
    "xlsr-ravdess": _speakers(
        "ravdess", "02 05 14 15 16", "03 06 07 13 18", "10 11 12 19 20", "08 17 21 23 24", "01 04 09 22"
    ),
    "emobox-savee": _speakers("savee", "JE", "KL", "DC", "JK"),
    "tess-talker": _speakers("tess", "YAF", "OAF"),
    "audeering-cremad": _speakers(
        "cremad", "1048 1069 1071 1074 1076 1077 1078 1079 1082 1083 1084 1086 1087 1088 1089 1090 1091"
    ),
}
NAMED_VALIDATION: dict[str, tuple[str, ...]] = {
    "audeering-cremad": _speakers(
        "cremad", "1049 1053 1054 1055 1058 1059 1061 1062 1063 1064 1065 1066 1067 1068 1070 1075 1080 1085"
    )[0]
}
