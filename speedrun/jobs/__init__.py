"""Jobs made of trainings or of a trained net, one file each; `speedrun.cli` calls their `main(argv, start)`."""
