"""configs/: each recipe trains, stops, goes on, predicts and is exported, with a tiny model of its class."""
