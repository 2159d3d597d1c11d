"""What is read at each scrape from where it is true: the catalog, the broker, the disk. No process holds a gauge."""
