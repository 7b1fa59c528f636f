"""
The methods that SCoRe is compared with, from the same rollouts and the same budget.

In the order in which they are used: `methods` (what each is), `budget` (how many answers and updates it may spend),
`self_refine` (prompting alone). Nothing here is imported by the trainers.
"""
