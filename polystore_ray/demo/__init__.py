"""The demo: photographs segmented by Ray tasks that share them through the cluster memory."""
