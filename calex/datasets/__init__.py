"""One file a dataset source: `load(folder, **options)` gives images, labels, class names and the fixed split."""
