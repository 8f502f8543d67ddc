"""`python -m tests.live`: ten checks of each provider that there is a key for, or of a compatible server."""

import argparse
import asyncio
import os
import sys
import time

from policies.errors import RemitError
from tests.live.checks import CHECKS, Found, run
from tests.live.targets import KEYS, Target, compatible, shipped


async def main(given: argparse.Namespace) -> int:
    """The exit code: 1 when a check failed."""
    if given.base_url:
        return await _asked(compatible(given.base_url, given.model or "default", os.environ.get("KEY", "")))
    failed = 0
    for name in given.provider or KEYS:
        if target := shipped(name, given.model):
            failed += await _asked(target)
        else:
            print(f"{name}: skipped, {' or '.join(f'`{v}`' for v in KEYS[name])} isn't set", flush=True)
    return min(failed, 1)


async def _asked(target: Target) -> int:
    print(f"{target.name}: `{target.choice.model}`", flush=True)
    try:
        async with target.session() as session:
            found = await run(session)
    except RemitError as e:
        print(f"  {e.message}")
        return 1
    for each in found:
        print(f"  {'ok    ' if each.ok else 'FAILED'}  {each.name:<24}{_took(each):<46}{each.note}")
    good = sum(each.ok for each in found)
    usage = session.usage
    came_to = f"{good} of {len(CHECKS)}, {_usd(session.micro_usd)}"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    print(
        f"  {came_to}; {session.calls} answers, {usage.input_tokens} tokens read ({usage.cached_input_tokens} from the cache), "
        f"{usage.output_tokens} written\n"
        f"  | {target.name if target.vendor else 'compatible'} | `{target.choice.model}` | {today} | {came_to} |",
        flush=True,
    )
    return int(good != len(CHECKS))


def _took(found: Found) -> str:
    used = f"{found.usage.input_tokens} in, {found.usage.output_tokens} out"
    return f"{found.seconds:4.1f} s, {found.calls} answers, {used}, {_usd(found.micro_usd)}"


def _usd(micro_usd: int | None) -> str:
    return "price unknown" if micro_usd is None else f"${micro_usd / 1_000_000:.6f}"


def _provider(name: str) -> str:
    if name not in KEYS:
        raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(KEYS)}")
    return name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.live", description="Ask real models whether they work as Remit calls them."
    )
    parser.add_argument("provider", nargs="*", type=_provider, help="only these; all that there is a key for otherwise")
    parser.add_argument(
        "--base-url",
        default="",
        help="a server that speaks Chat Completions, instead of the vendors; its key in the variable `KEY`",
    )
    parser.add_argument("--model", default="", help="another model than the built-in agents' cheap one")
    sys.exit(asyncio.run(main(parser.parse_args())))
