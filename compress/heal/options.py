"""The options of healing, as recipes give them."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from compress.spec import Spec


class HealOptions(Spec):
    """`attention_steps` of attention transfer come first (each mixer that has learned parts of its own, such as feature
    maps, alone on the original's hidden states; only these parts are trained, towards the original mixer's output and,
    weighed by `attention_rows`, its attention rows), then `transfer_steps` of module-wise transfer (each changed block
    on the original's hidden states; of every `transfer_span` layers in a row the first gets these and the others what
    the one before them gives, so that they learn to make up for each other), then `steps` of distillation end to end.
    With 0 everywhere nothing is trained.

    The loss of distillation is `kl` T^2 KL(original || model at temperature T) + `hidden` mean over blocks of
    MSE(hidden states) / Var(original's) + `task` cross-entropy with the labels; `mixup` trains on random mixtures of
    two images (the original's answer to the mixture is the target, labels are mixed alike; Zhang et al. 2018).
    `lora`: rank of low-rank products through which alone distillation changes the maps of the blocks (what new mixers
    learn is trained as well); 0 trains all weights.
    `loops`: other numbers of loops that the model is to answer with, fewer (an early exit) or more than it has: each
    step of distillation trains one of them or the whole model, drawn at random, and drift is the mean over all.
    `weight_decay` shrinks matrices, in distillation alone; `average` is the decay of a moving average of the weights,
    which is then what is judged and kept (Polyak and Juditsky 1992), 0 keeps the weights themselves.
    `flip` mirrors half of the images. `patience`: stop after this many evaluations without a lower drift on held-out
    images.
    """

    steps: NonNegativeInt = 0
    transfer_steps: NonNegativeInt = 0
    transfer_span: PositiveInt = 1
    attention_steps: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 5e-4
    transfer_lr: PositiveFloat = 1e-3
    attention_lr: PositiveFloat = 1e-2
    attention_rows: NonNegativeFloat = 0.0
    lora: NonNegativeInt = 0
    loops: tuple[PositiveInt, ...] = ()
    temperature: PositiveFloat = 2.0
    kl: NonNegativeFloat = 1.0
    hidden: NonNegativeFloat = 1.0
    task: NonNegativeFloat = 0.0
    mixup: bool = False
    flip: bool = True
    weight_decay: NonNegativeFloat = 0.0
    average: float = Field(default=0.0, ge=0, lt=1)
    anneal: float = Field(default=0.5, ge=0, le=1)
    eval_every: PositiveInt = 100
    patience: PositiveInt = 5
