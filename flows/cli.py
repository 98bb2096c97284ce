"""The `fewstep` command. Each command is a file below flows/commands with `add(app)`, imported when it is called.

Every FewstepError, and every error of the operating system, becomes one line, `error: …`, with what to do below it, and
its exit code: 1 failed, 2 bad settings or usage, 3 data differs, 4 not available, 5 busy, 130 interrupted. With
`--json` the answer (or the error) is one JSON document on stdout. A traceback is shown for `--debug` and for what can
only be a bug.
"""

from __future__ import annotations

import importlib
import os
import sys

import typer
from typer.core import TyperCommand, TyperGroup

from fewstep.util.errors import FewstepError
from flows.command_help import help_of
from flows.output import examples, json_error, report_error
from flows.system_errors import drop_output, in_words, open_streams, output_error
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks

PANELS = {  # the panel of the help, the folder below flows/commands, the commands
    "Run": ("pipeline", ("init", "run", "estimate", "accept", "sweep", "resume", "status", "report", "compare")),
    "Models": ("models", ("promote", "approve", "reject", "rollback", "history", "sample", "lineage", "checkout")),
    "Data, teachers and recipes": ("inputs", ("data", "inspect", "recipes")),
    "Schedules and servers": ("servers", ("schedule", "serve", "ui", "stack")),
    "Upkeep": ("upkeep", ("doctor", "verify", "reconcile", "clean", "gc", "backup", "restore")),
    "Single stages": ("pipeline", ("stage",)),
}
COMMANDS = {name: panel for panel, (_, names) in PANELS.items() for name in names}
MODULES = {name: f"flows.commands.{folder}.{name}" for folder, names in PANELS.values() for name in names}
MODULES["reject"] = MODULES["approve"]     # the two answers to one question stand in one module
MODULES["restore"] = MODULES["backup"]      # and so do the two ways of one folder


class LazyCommands(TyperGroup):
    """The commands by name. Only the module of the command that is asked for is imported; `--help` reads the others."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:
        """The command as the overview shows it, or whole when it has been loaded."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            help_text = help_of(MODULES[cmd_name], cmd_name)
            self.commands[cmd_name] = TyperCommand(cmd_name, help=help_text, rich_markup_mode="rich",
                                                   rich_help_panel=COMMANDS[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, TyperCommand | None, list[str]]:
        """Loads the command that is to run; a mistyped name gets its nearest neighbours as an answer."""
        if args[0] in COMMANDS:
            self._load(args[0])
        else:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def _load(self, name: str) -> None:
        app = typer.Typer(rich_markup_mode="rich")
        importlib.import_module(MODULES[name]).add(app)
        self.commands |= typer.main.get_group(app).commands


app = typer.Typer(cls=LazyCommands, rich_markup_mode="rich", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback(epilog=examples("fewstep run", "fewstep run --set distill.recipe=dmd2", "fewstep status",
                              "fewstep sample fewstep-digits@champion --n 64 --out grid.png"))
def fewstep(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
    """Turn a many-step diffusion model into one that samples in one to a few steps."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: runs the command and exits with its code."""
    open_streams()
    redact_logs_and_tracebacks()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = arguments[:arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in options or os.environ.get("FEWSTEP_DEBUG") == "1"
    arguments = [word for word in options if word != "--debug"] + arguments[len(options):]
    try:
        code = _call(arguments, debug, "--json" in options)
        unwritten = output_error()
        if unwritten is not None:
            report_error(unwritten)
            code = code or unwritten.exit_code
    except BrokenPipeError:     # the reader (head, less) has gone
        drop_output()
        code = 141
    sys.exit(code)


def _call(arguments: list[str], debug: bool, as_json: bool) -> int | str | None:
    """Runs the command; its exit code. Errors that people meet are printed."""
    try:
        app(args=arguments, prog_name="fewstep")
        return 0
    except SystemExit as done:
        return done.code
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (FewstepError, OSError) as error:
        if debug:
            raise
        known = output_error(error) if isinstance(error, OSError) else None
        said = error if isinstance(error, FewstepError) else known or in_words(error)
        if as_json:
            json_error(said)
        report_error(said)
        return said.exit_code


if __name__ == "__main__":
    main()
