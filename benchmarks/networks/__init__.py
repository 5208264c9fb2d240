"""Which networks become a served graph, and how exactly: those of torchvision, of timm and of heatserve, by name."""
