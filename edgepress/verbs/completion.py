"""edgepress completion SHELL: what completes the command, to be sourced from the shell's own file."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from targets.cli import Parser
from targets.errors import run_cli

SHELLS = ("bash", "zsh", "fish")


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(
        prog="python -m edgepress.verbs.completion",
        description='Print the completion of a shell, such as: eval "$(edgepress completion bash)"',
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))
    print(script(parser.parse_args().shell))
    return 0


def script(shell: str) -> str:
    """The completion of a shell: verbs, the options of each, and the values of --target and --recipe."""
    import targets
    from edgepress.command import offered

    verbs = list(offered())
    with ThreadPoolExecutor(2) as pool:
        options = dict(zip(verbs, pool.map(_options, verbs), strict=True))
    values = {"--target": targets.names(), "--recipe": _recipes()}
    return _fish(options, values) if shell == "fish" else _bash(options, values, zsh=shell == "zsh")


def _options(verb: str) -> list[str]:
    """What the verb's own help says that it takes."""
    command = [sys.executable, "-m", "edgepress", verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return sorted(set(re.findall(r"--[a-z][a-z-]+", done.stdout)))


def _recipes() -> list[str]:
    from importlib.util import find_spec

    if find_spec("compress") is None:  # the device side alone has no recipes
        return []
    from edgepress.verbs.recipes import FOLDER

    return sorted({file.stem for file in FOLDER.rglob("*.toml")})


def _bash(options: dict[str, list[str]], values: dict[str, list[str]], zsh: bool) -> str:
    cases = "\n".join(f"    {verb}) words='{' '.join(names)}' ;;" for verb, names in options.items())
    given = "\n".join(f"    {option}) words='{' '.join(names)}' ;;" for option, names in values.items())
    start = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{start}_edgepress() {{
  local words='{" ".join(options)}' word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$before" in
{given}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _edgepress edgepress"""


def _fish(options: dict[str, list[str]], values: dict[str, list[str]]) -> str:
    lines = [f"complete -c edgepress -n __fish_use_subcommand -f -a '{' '.join(options)}'"]
    for verb, names in options.items():
        for name in names:
            given = f" -x -a '{' '.join(values[name])}'" if name in values else ""
            lines.append(f"complete -c edgepress -n '__fish_seen_subcommand_from {verb}' -l {name[2:]}{given}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
