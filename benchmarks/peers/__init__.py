"""The peers of sweeper: scripts that people write today with Optuna, Ray Tune, Trainer and PEFT."""
