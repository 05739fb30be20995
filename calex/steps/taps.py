"""List where branches can read a network, and propose four taps: a line for the config.

A tap is a module that gives one feature map in a forward pass: (B, C, H, W), or what is read as one, maps with their
channels last and tokens of a square grid. For each: its map, what is left of it after the pool, what one image takes in
the cache (float16), and the share of the network's FLOPs spent by then. Four are proposed (*), an early one and three around
the middle: those that `taps: auto` takes; fewer where there are fewer. Needs shapes only, no weights and no data.
"""

from __future__ import annotations

import argparse
import math

from calex.backbones import proposal
from calex.backbones.build import build, parameters
from calex.backbones.shares import SHARES
from calex.backbones.trace import check_network
from calex.errors import CalexError

DEPTH = 2  # of the modules listed by default
READ_AS = {"maps": "", "channels_last": "  channels last", "tokens": "  tokens, {} before the grid"}
SIZES = {"imagenet": 224, "cifar": 32, "small": 64}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="MODEL", help="a torchvision classifier by name, or package.module:function")
    parser.add_argument("--stem", choices=SIZES, default="imagenet", help="as in the config (default: imagenet)")
    parser.add_argument("--input-size", type=int, help="pixels (default: 224; with the stem cifar 32, with small 64)")
    parser.add_argument("--classes", type=int, default=10, help="how many the network tells apart (default: 10)")
    parser.add_argument("--pool", type=int, default=8, help="cells a side that a tap is averaged to, 0 for none (default: 8)")
    parser.add_argument("--all", action="store_true", help=f"modules at every depth (default: down to {DEPTH} names)")


def run(args: argparse.Namespace) -> None:
    size = SIZES[args.stem] if args.input_size is None else args.input_size
    for flag, value, least in (("--input-size", size, 1), ("--classes", args.classes, 1), ("--pool", args.pool, 0)):
        if value < least:
            raise CalexError(f"{flag}: {value} is too small; give {least} or more")
    model = build(args.network, args.stem, args.classes, size)
    channels = check_network(model, args.network, size, args.classes)
    taps, flops = proposal.candidates(model, size, args.pool or None, args.network, channels)
    proposed = next(filter(None, (proposal.propose(taps, flops, SHARES[fewer:]) for fewer in range(len(SHARES)))), [])
    print(f"{args.network}, {args.stem} stem, {size} px: {flops / 1e6:.1f} MFLOPs, {parameters(model) / 1e6:.2f} M parameters")
    shown = [tap for tap in taps if args.all or proposal.depth(tap.name) <= DEPTH or tap in proposed]
    width = max([len(tap.name) for tap in shown] + [8])
    print(f"\n  {'tap':<{width}}  {'map':>16}  {'pooled':>14}  {'bytes/image':>11}  {'FLOPs':>6}")
    for tap in shown:
        full, small = ("×".join(map(str, shape)) for shape in (tap.full_shape, tap.shape))
        mark = "*" if tap in proposed else " "
        print(
            f"{mark} {tap.name:<{width}}  {full:>16}  {small:>14}  {2 * math.prod(tap.shape):>11,}  {tap.flops / flops:>6.1%}"
            + READ_AS[tap.layout.kind].format(tap.layout.extra)
        )
    if len(shown) < len(taps):
        print(f"  … and {len(taps) - len(shown)} deeper ones: --all")
    if not proposed:
        print("\nno proposal: there is no map between 5 % and 95 % of the FLOPs")
        return
    print(f"\ntaps: [{', '.join(tap.name for tap in proposed)}]")
