"""The page that `trl_score.report` fills in: its HTML, its looks in light and dark, and the script of its filter."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b1f24; --faint: #57606a; --line: #d0d7de; --accent: #0057ae;
  --good: #1a6b35; --bad: #a3261b; --added: #c3eccb; --removed: #ffd3cc;
  --blue: #0072b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1216; --card: #191d23; --text: #e6e9ed; --faint: #a3adb8; --line: #353c45; --accent: #7db8ff;
    --good: #7ee2a0; --bad: #ff9d92; --added: #1c4f2c; --removed: #64251e;
    --blue: #4aa3df;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
h2 { margin: 2.5rem 0 0.75rem; }
p.note, caption, figcaption, .question, dt, th { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.4rem 0.9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
th:first-child, td:first-child, .settings td { text-align: left; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
td small { display: block; color: var(--faint); }
ul.verdicts { list-style: none; padding: 0; display: grid; gap: 0.6rem; }
ul.verdicts li, figure, article, details { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.8rem 1rem; margin: 0; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.figures { columns: 34rem; column-gap: 1rem; }
.figures figure { break-inside: avoid; margin-bottom: 1rem; }
figure svg { display: block; width: 100%; height: auto; max-height: 44rem; }
figcaption { margin-bottom: 0.5rem; }
figcaption b { color: var(--text); }
.filter { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; position: sticky; top: 0; z-index: 1;
  background: var(--page); padding: 0.6rem 0; }
button { font: inherit; padding: 0.25rem 0.8rem; border: 1px solid var(--line); border-radius: 999px;
  background: var(--card); color: var(--text); cursor: pointer; }
button[aria-pressed="true"] { border-color: var(--accent); background: var(--accent); color: var(--page); }
button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
article { margin-bottom: 0.8rem; }
article[hidden] { display: none; }
.question { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12rem; overflow: auto;
  margin: 0.2rem 0 0.7rem; }
.turns { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.turns h4 { margin: 0; font-size: 0.9rem; color: var(--faint); }
pre { margin: 0.3rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24rem; overflow: auto;
  font: 0.9rem/1.5 ui-monospace, monospace; }
/* Underlined, not struck out: a struck-out digit cannot be read. The line's kind says it again without colour. */
del, ins { text-decoration: underline 2px; text-underline-offset: 3px; border-radius: 3px; padding: 0 1px;
  color: var(--text); }
del { background: var(--removed); text-decoration-style: wavy; text-decoration-thickness: 1px; }
ins { background: var(--added); }
details { margin-bottom: 0.8rem; }
summary { cursor: pointer; font-weight: 600; }
@media print { .filter { display: none; } pre, .question { max-height: none; } }
"""

SCRIPT = """
const cards = [...document.querySelectorAll("article[data-kinds]")];
const buttons = [...document.querySelectorAll("button[data-kind]")];
const shown = document.getElementById("shown");
function show(kind) {
  let count = 0;
  for (const card of cards) {
    card.hidden = kind !== "all" && !card.dataset.kinds.split(" ").includes(kind);
    count += card.hidden ? 0 : 1;
  }
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
  shown.textContent = `${count} of ${cards.length} shown`;
}
for (const button of buttons) button.addEventListener("click", () => show(button.dataset.kind));
if (shown) show("all");
"""

# Everything goes through Jinja's escaping but the figures and the script, which are ours.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src '{{ script_hash }}'">
<title>{{ label }}: self-correction</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<h1>{{ label }}</h1>
<p class="note">Does the model correct itself? Turn 1 is its first answer, turn 2 the one after being asked to look
again. i→c: wrong at turn 1 and right at the last; c→i: right at turn 1 and wrong at the last; Δ: the difference.</p>
</header>

<section id="results">
<h2>Results</h2>
{% if rows %}
<div class="scroll"><table>
<caption>In percent of the problems, below it the 95% interval over problems</caption>
<thead><tr><th>model</th>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><td>{{ row.label }}</td>{% for cell in row.cells %}<td>{{ cell.value }}<small>{{ cell.interval }}</small></td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% else %}<p>No evaluation lies in the folder of this run.</p>{% endif %}
</section>

<section id="verdicts">
<h2>Collapse detectors</h2>
{% if verdicts %}
<p class="note">Replayed over the training log with their default thresholds.</p>
<ul class="verdicts">
{% for verdict in verdicts %}
<li><span class="{{ 'bad' if verdict.findings else 'good' }}">{{ verdict.status }}</span> <b>{{ verdict.title }}</b>
({{ verdict.detector }}){% for step, message in verdict.findings %}<br>Step {{ step }}: {{ message }}{% endfor %}</li>
{% endfor %}
</ul>
{% else %}<p>No training log lies in the folder of this run.</p>{% endif %}
</section>

<section id="figures">
<h2>Figures</h2>
<div class="figures">
{% for figure in figures %}
<figure id="{{ figure.name }}"><figcaption><b>{{ figure.title }}.</b> {{ figure.text }}</figcaption>
{{ figure.svg | safe }}</figure>
{% endfor %}
</div>
</section>

<section id="rollouts">
<h2>Rollouts</h2>
{% if rollouts %}
<p class="note">{{ rollouts | length }} of {{ num_rollouts }} of {{ rollouts_source }}, rare kinds first;
in the whole {% for kind, count in counts.items() %}{{ count }} {{ kind }}{{ ", " if not loop.last }}
{%- endfor %}.
Changed and unchanged speak of the final answer. Marked in the texts: <del>what turn 2 drops</del> and
<ins>what a turn adds</ins> to the one before.</p>
<div class="filter" role="group" aria-label="Show rollouts">
{% for kind, count in buttons.items() %}
<button type="button" data-kind="{{ kind }}" aria-pressed="{{ 'true' if kind == 'all' else 'false' }}">{{ kind }}
({{ count }})</button>
{% endfor %}
<span id="shown" role="status"></span>
</div>
{% for rollout in rollouts %}
<article data-kinds="{{ rollout.kinds | join(' ') }}">
<b class="{{ rollout.tone }}">{{ rollout.outcome }}</b> · answer
{{ "changed" if "changed" in rollout.kinds else "unchanged" }}
<div class="question">{{ rollout.question }}</div>
<div class="turns">
{% for turn in rollout.turns %}
<div><h4>turn {{ loop.index }} · reward {{ turn.reward }}</h4><pre>
{% for piece in turn.pieces %}{% if piece.is_changed %}<{{ turn.mark }}>{{ piece.text }}</{{ turn.mark }}>{% else %}
{{- piece.text }}{% endif %}
{%- endfor %}</pre></div>
{% endfor %}
</div>
</article>
{% endfor %}
{% else %}<p>No records of an evaluation and no table of rollouts lie in the folder of this run.</p>{% endif %}
</section>

<section id="configuration">
<h2>Configuration</h2>
{% for title, settings in configuration.items() %}
<details{% if loop.first %} open{% endif %}><summary>{{ title }}</summary>
<div class="scroll"><table class="settings"><tbody>
{% for name, value in settings.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div></details>
{% else %}<p>No configuration lies in the folder of this run.</p>
{% endfor %}
</section>
<script>{{ script | safe }}</script>
</body>
</html>
"""
