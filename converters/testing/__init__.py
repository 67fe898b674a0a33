"""What a format's tests are made of; installed so that plug-ins can use it too."""
