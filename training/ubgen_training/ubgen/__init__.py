"""The paper's method: loss, adversarial term, trainer."""
