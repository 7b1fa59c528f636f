"""
SCoRe (arXiv 2409.12917), one file per step, in the order of the flow: `prompts`, `rollout`, `shaping`, `advantages`,
`losses`, and the trainer that wires them. Import from the files: this package loads none of them, so that its prompts
come without torch.
"""
