"""What sweeper is measured against: the scripts that are written today with Optuna, Ray Tune, Trainer and PEFT."""
