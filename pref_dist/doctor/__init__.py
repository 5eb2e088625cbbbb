"""What stands between this machine and a training: findings with a remedy each, in seconds, whatever hangs."""
