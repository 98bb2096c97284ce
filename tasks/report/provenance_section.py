"""Where the figures come from: protocol, settings, lineage."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import metric_name
from tasks.report.report_data import Material


def protocol(materials: list[Material]) -> str:
    """What all values have in common, and what each metric adds."""
    document = materials[0].document
    values = document.first.values
    main = document.protocols[values["fd_infinite"].protocol]
    common = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{_plain(value)}</dd>"
                     for name, value in sorted(main.model_dump(exclude={"metric", "parameters"}).items()))
    rows = []
    for name, entry in values.items():
        used = document.protocols[entry.protocol]
        parameters = " · ".join(f"{key} {value}" for key, value in used.parameters.items())
        shown = f"{metric_name(used.metric, used.features)} <span class='dim'>{escape(name)}</span>"
        rows.append(f"<tr><th>{shown}</th><td>{escape(used.features)}</td><td>{escape(parameters)}</td>"
                    f"<td><code>{entry.protocol}</code></td></tr>")  # fmt: skip
    return (f'<dl class="terms">{common}</dl><details><summary>Every metric</summary><div class="scroll"><table><thead>'
            f"<tr><th>metric</th><th>features</th><th>settings</th><th>protocol</th></tr></thead><tbody>{''.join(rows)}"
            f"</tbody></table></div></details>")  # fmt: skip


def lineage(materials: list[Material]) -> str:
    """What the student came from: every stage's key and digest, its inputs, the code."""
    blocks = []
    for material in materials:
        if not material.stages:
            continue
        rows = []
        for name, stage in material.stages.items():
            inputs = ", ".join(f"{key} {value['digest'][:10]}" for key, value in stage.inputs.items())
            outside = ", ".join(f"{key} {value[:10]}" for key, value in stage.given.items())
            rows.append(f'<tr id="stage-{escape(name)}"><th>{escape(name)}</th><td><code title="{stage.digest}">'
                        f'{stage.digest[:10]}</code></td><td><code title="{stage.key}">{stage.key[:10]}</code></td>'
                        f"<td>{escape(', '.join(filter(None, [inputs, outside])) or '–')}</td><td>{stage.files} files, "
                        f"{stage.bytes / 1e6:.2f} MB</td></tr>")  # fmt: skip
        last = material.stages.get("evaluate") or next(iter(material.stages.values()))
        machine = last.fingerprint[-1] if last.fingerprint else {}
        facts = {"commit": material.told_commit() or "not in git", **last.versions, **machine}
        text = " · ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
        blocks.append(f'<h3>{escape(material.label)}</h3><div class="scroll"><table><thead><tr><th>stage</th><th>bytes'
                      f"</th><th>key</th><th>made from</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
                      f'</div><p class="dim">{escape(text)}</p>')  # fmt: skip
    return "".join(blocks)


def settings(materials: list[Material]) -> str:
    """Every resolved setting by stage; of several materials only what differs stands open."""
    flat = [{f"{name}.{key}": value for name, stage in material.stages.items()
             for key, value in _flat(stage.settings).items()} for material in materials]  # fmt: skip
    if not any(flat):
        return ""
    names = list(dict.fromkeys(name for one in flat for name in one))
    differing = [name for name in names if len({str(one.get(name, "–")) for one in flat}) > 1]
    head = "".join(f"<th>{escape(material.label)}</th>" for material in materials)

    def table(chosen: list[str]) -> str:
        rows = []
        for name in chosen:
            cells = "".join(f"<td>{_plain(one.get(name, '–'))}</td>" for one in flat)
            rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
        return (f'<div class="scroll"><table class="settings"><thead><tr><th></th>{head}</tr></thead><tbody>'
                f"{''.join(rows)}</tbody></table></div>")  # fmt: skip

    opened = table(differing) if len(materials) > 1 and differing else ""
    return opened + f"<details><summary>All {len(names)} settings</summary>{table(names)}</details>"


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested settings as `a.b.c` → value; the parts of a list are numbered from 1."""
    if isinstance(value, dict) and value:
        return {key: one for name, part in value.items()
                for key, one in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()}  # fmt: skip
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return {key: one for i, part in enumerate(value) for key, one in _flat(part, f"{prefix}.{i + 1}").items()}
    return {prefix: value}


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return '<span class="dim">none</span>'
    if isinstance(value, list):
        return escape(", ".join(map(str, value)))
    return escape(str(value))
