"""What every training from rewards shares: settings, trainer, guards, push, card."""
