"""The bucket job: every video of a folder or ``s3://`` prefix segmented, once.

    list -> decode (1 video : N parts) -> segment (1 part : 1 part) -> write (N parts : 1 row)

``job`` says what is wanted, ``decode``, ``segment`` and ``write`` are the stages without Ray, and
``pipeline`` puts them on Ray Data. ``run`` deals out the listing; ``report`` and ``gallery`` tell
what came out.
"""
