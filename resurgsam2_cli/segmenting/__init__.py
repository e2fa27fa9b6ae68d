"""One video from source to outputs: options, the engine, the pipeline, and its benchmark."""
