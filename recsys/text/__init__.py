"""What the text heads share: the network, and its bundle."""
