"""The networks, in plain torch: multi-view U-Net, feedback adapters, reconstructor, codecs, image encoder, weights."""
