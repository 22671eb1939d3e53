"""What the API served lately against what its model was fitted on: `recsys monitor`."""
