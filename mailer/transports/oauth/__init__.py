"""Log in to an SMTP server with a token instead of a password: fetch it, keep it, renew it, present it."""
