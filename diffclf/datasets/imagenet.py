"""Which of ImageNet's thousand classes the classes of other data sets are.

Sources:
    ImageNet-A: Hendrycks et al. 2021, `eval.py` of github.com/hendrycks/natural-adv-examples; the same list is
        `imagenet_a_indices.txt` of github.com/huggingface/pytorch-image-models. The classes are in the order of their
        WordNet ids, which is that of ImageNet.
    ObjectNet: Barbu et al. 2019, `objectnet_to_imagenet_1k.json` of the release, as used by
        github.com/diffusion-classifier/diffusion-classifier (`diffusion/datasets.py`: the 125 indices;
        `prompts/objectnet_prompts.csv`: the 113 classes; `diffusion/dataset/objectnet.py`) and
        github.com/alibaba/easyrobust (`objectnet.py`: which indices belong to which class).
"""

__all__ = ["IMAGENET_A", "OBJECTNET"]

# fmt: off
IMAGENET_A: tuple[int, ...] = (
    6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79, 89, 90, 94, 96, 97, 99, 105, 107,
    108, 110, 113, 124, 125, 130, 132, 143, 144, 150, 151, 207, 234, 235, 254, 277, 283, 287, 291, 295, 298, 301,
    306, 307, 308, 309, 310, 311, 313, 314, 315, 317, 319, 323, 324, 326, 327, 330, 334, 335, 336, 347, 361, 363,
    372, 378, 386, 397, 400, 401, 402, 404, 407, 411, 416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461,
    462, 470, 472, 483, 486, 488, 492, 496, 514, 516, 528, 530, 539, 542, 543, 549, 552, 557, 561, 562, 569, 572,
    573, 575, 579, 589, 606, 607, 609, 614, 626, 627, 640, 641, 642, 643, 658, 668, 677, 682, 684, 687, 701, 704,
    719, 736, 746, 749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786, 792, 797, 802, 803, 804, 813, 815,
    820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862, 870, 879, 880, 888, 890, 897, 900, 907, 913, 924, 932,
    933, 934, 937, 943, 945, 947, 951, 954, 956, 957, 959, 971, 972, 980, 981, 984, 986, 987, 988,
)
"""The 200 classes of ImageNet-A."""

OBJECTNET: dict[int, int] = {
    409: 0, 530: 0, 414: 1, 954: 2, 419: 3, 790: 4, 440: 5, 703: 6, 444: 7, 671: 7, 446: 8, 455: 9, 930: 10, 462: 11,
    463: 12, 499: 13, 473: 14, 470: 15, 487: 16, 423: 17, 559: 17, 765: 17, 588: 18, 550: 19, 507: 20, 673: 21,
    846: 22, 539: 23, 578: 24, 630: 25, 740: 26, 968: 27, 729: 28, 549: 29, 545: 30, 567: 31, 434: 32, 589: 33,
    587: 34, 533: 35, 518: 36, 560: 36, 606: 37, 608: 38, 508: 39, 618: 40, 619: 41, 620: 42, 951: 43, 623: 44,
    626: 45, 629: 46, 644: 47, 647: 48, 651: 49, 659: 50, 664: 51, 504: 52, 677: 53, 679: 54, 950: 55, 695: 56,
    696: 57, 700: 58, 418: 59, 563: 59, 749: 59, 720: 60, 721: 61, 725: 62, 728: 63, 923: 64, 731: 65, 737: 66,
    811: 67, 742: 68, 761: 69, 769: 70, 770: 71, 772: 72, 773: 73, 774: 74, 783: 75, 792: 76, 601: 77, 655: 77,
    689: 77, 797: 78, 804: 79, 806: 80, 809: 81, 813: 82, 632: 83, 732: 84, 759: 84, 828: 85, 850: 86, 834: 87,
    837: 88, 841: 89, 842: 90, 610: 91, 849: 92, 752: 93, 457: 94, 906: 94, 859: 95, 999: 96, 412: 97, 868: 98,
    851: 99, 879: 100, 882: 101, 883: 102, 893: 103, 531: 104, 898: 105, 543: 106, 778: 107, 479: 108, 694: 108,
    902: 109, 907: 110, 658: 111, 909: 112,
}
"""Class of ImageNet -> the class of ObjectNet that it is, of the 113 that ImageNet has.

Those are in the order of their folders (alarm_clock, backpack, ..., wok). Nine of them are several classes of ImageNet:
alarm clock, bicycle, chair, helmet, pen, skirt, still camera, tie and wheel, so that 125 classes of ImageNet belong to
113 of ObjectNet. A model of text is asked about the 113. A model of ImageNet's classes is asked about the 125, and its
best score among those of a class counts, as in the released code (`class_idx_map`, `project_logits`).
"""
# fmt: on
