"""What is learned: recipes trained on real rows as a user trains them, several seeds each, scored on held-out rows."""
