"""`fewstep recipes`: what can be distilled how, and one recipe fully resolved."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep.recipes import load_recipe, recipe_names
from fewstep.recipes.published import Preset
from fewstep.util.plain_data import to_yaml
from flows.output import emit, examples

PRESET = typer.Option("small", "--preset", help="Its own settings, or those of its paper over them.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    recipes = typer.Typer(help="The recipes and what each needs.", rich_markup_mode="rich", invoke_without_command=True,
                          epilog=examples("fewstep recipes", "fewstep recipes show dmd2", "fewstep recipes --json"))

    @recipes.callback()
    def listing(context: typer.Context, as_json: bool = JSON) -> None:
        """List the recipes with what each needs."""
        if context.invoked_subcommand is None:
            rows = _rows()
            emit(rows, as_json, lambda console: _print_rows(console, rows))

    @recipes.command(epilog=examples("fewstep recipes show kd", "fewstep recipes show dmd2 --preset published",
                                       "fewstep recipes show my_recipe.yaml"))
    def show(name: str = typer.Argument(help="A recipe's name, or the path of a YAML file."),
             preset: Preset = PRESET, as_json: bool = JSON) -> None:
        """Print one recipe with all its settings, defaults included."""
        recipe = load_recipe(name).preset(preset)
        told = recipe.published.model_dump(mode="json", exclude_defaults=True)
        data = {**recipe.model_dump(mode="json"), "published": told, "needs": recipe.needs.words()}
        emit(data, as_json, lambda console: _print_one(console, data))

    app.add_typer(recipes, name="recipes")


def _rows() -> list[dict]:
    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        rows.append({
            "name": name, "summary": recipe.summary, "steps": recipe.student.steps, "rounds": len(recipe.rounds),
            "needs": recipe.needs.words(), "status": recipe.status,
            "target": recipe.target, "flow_map": recipe.flow_map,
            "reference": recipe.reference.model_dump() if recipe.reference else None,
        })
    return rows


def _print_rows(console: Console, rows: list[dict]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("recipe", style="cyan", no_wrap=True)
    table.add_column("needs")
    table.add_column("target")
    table.add_column("what it does", overflow="fold")
    for row in rows:
        paper = f" (arXiv {row['reference']['arxiv']})" if row["reference"] and row["reference"]["arxiv"] else ""
        target = row["target"] + (", flow map" if row["flow_map"] else "")
        table.add_row(row["name"], ", ".join(row["needs"]), target, row["summary"] + paper)
    console.print(table)
    console.print("\n[dim]fewstep recipes show NAME[/] prints all settings of one;\n"
                  "[dim]fewstep run --set distill.recipe=NAME[/] runs it, "
                  "shorter or longer by [dim]--set distill.images=N[/].")


def _print_one(console: Console, data: dict) -> None:
    text = to_yaml(data, min(console.width, 100))
    console.print(Text(text.rstrip()))
