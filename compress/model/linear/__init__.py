"""What the mixers of linear attention share: feature maps, sums, decays."""
