"""What the models cost: inference, training steps, the loader, and the price of small proposals.

    python -m efpn.benchmark                                   Table III at 700 px on the CPU
    python -m efpn.benchmark --size 1400 --threads 2 --repeats 5
    python -m efpn.benchmark --device cuda --precision bf16 --batch 4 --models fpn-1x,fpn-2x,efpn
    python -m efpn.benchmark --run outputs/NAME/seed0 --pictures data/FOLDER
    python -m efpn.benchmark training --size 512 --batch 2
    python -m efpn.benchmark loader --size 512 --workers 0,1,2
    python -m efpn.benchmark small-proposals --counts 0,1,5,20,50

Each writes a JSON and a Markdown file into ``--out`` (``outputs/benchmarks/``), named after what was measured. Ratios
come first there: they carry over to another machine, absolute times do not. ``WHAT --help`` lists the options of one.
"""
