"""Which of ImageNet's thousand classes the classes of other data sets are.

Sources:
    ImageNet-A: Hendrycks et al. 2021, `eval.py` of github.com/hendrycks/natural-adv-examples; the same list is
        `imagenet_a_indices.txt` of github.com/huggingface/pytorch-image-models. The classes are in the order of their
        WordNet ids, which is that of ImageNet.
    ObjectNet: Barbu et al. 2019, `objectnet_to_imagenet_1k.json` of the release, as used by
        github.com/diffusion-classifier/diffusion-classifier (`diffusion/datasets.py`: the 125 indices) and
        github.com/alibaba/easyrobust (`objectnet.py`: which of them belong to which class).
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

OBJECTNET: tuple[int | None, ...] = (
    None, 414, 954, 419, 790, 440, 703, None, 446, 455, 930, 462, 463, 499, 473, 470, 487, None, 588, 550, 507, 673,
    846, 539, 578, 630, 740, 968, 729, 549, 545, 567, 434, 589, 587, 533, None, 606, 608, 508, 618, 619, 620, 951,
    623, 626, 629, 644, 647, 651, 659, 664, 504, 677, 679, 950, 695, 696, 700, None, 720, 721, 725, 728, 923, 731,
    737, 811, 742, 761, 769, 770, 772, 773, 774, 783, 792, None, 797, 804, 806, 809, 813, 632, None, 828, 850, 834,
    837, 841, 842, 610, 849, 752, None, 859, 999, 412, 868, 851, 879, 882, 883, 893, 531, 898, 543, 778, None, 902,
    907, 658, 909,
)
"""The 113 classes of ObjectNet that ImageNet has, in the order of their folders (alarm_clock, backpack, ..., wok).

None: nine classes that are several classes of ImageNet each (alarm clock, bicycle, chair, helmet, pen, skirt, still
camera, tie, wheel).
"""
# fmt: on
