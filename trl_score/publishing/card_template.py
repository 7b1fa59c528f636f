"""The model card that `trl_score.publishing.card` fills in: Markdown, as the Hub renders it."""

CARD = """\
---
{{ metadata }}
---

# {{ model_name }}

{{ introduction }}

## How to use it

```python
{{ usage }}
```
{% if correction_prompt %}

Between the turns it was asked:

{{ correction_prompt }}
{% endif %}
{% if critique_prompt %}

It was asked for a critique with:

{{ critique_prompt }}
{% endif %}
{% if tables or figures %}

## Results
{% for table in tables %}

{{ table }}
{% endfor %}
{% for file, caption in figures.items() %}

![{{ caption }}]({{ file }})

*{{ caption }}*
{% endfor %}
{% endif %}

## Training
{% if links %}

{{ links }}
{% endif %}

{{ facts }}
{% if arguments %}

<details>
<summary>The arguments that shape what is learned</summary>

{{ arguments }}

</details>
{% endif %}
{% if deviations %}

## Deviations from the paper

{% for deviation in deviations %}
{{ loop.index }}. {{ deviation }}
{% endfor %}

Their reasons: `docs/paper_fidelity.md` of trl_score.
{% endif %}

## Licence

{{ licence }}

## Citations
{% for citation in citations %}

```bibtex
{{ citation }}
```
{% endfor %}
"""

TRL_CITATION = """\
@software{vonwerra2020trl,
    title   = {{TRL: Transformers Reinforcement Learning}},
    author  = {Leandro von Werra and Younes Belkada and Lewis Tunstall and others},
    license = {Apache-2.0},
    url     = {https://github.com/huggingface/trl},
    year    = {2020}
}"""

SCORE_USAGE = """\
from trl_score import SelfCorrectionPipeline

pipe = SelfCorrectionPipeline("{{ name }}")
corrected = pipe("What is 17 + 25?")
print(corrected.turns[0])  # what it answered first
print(corrected.turns[-1])  # and after it was asked to look again
print(corrected.final_answer)"""

CLOUD_USAGE = """\
from trl_score import CLoudScorer

scorer = CLoudScorer.from_pretrained("{{ name }}")
question = {"role": "user", "content": "What is 17 + 25?"}
good, bad = scorer([[question, {"role": "assistant", "content": text}] for text in ("It is 42.", "It is 32.")])
print(good.reward, bad.reward, *good.critiques, sep="\\n")

from trl_score.rewards import CLoudReward

reward = CLoudReward("{{ name }}")  # a reward function for GRPOTrainer, RLOOTrainer and SCoReTrainer"""
