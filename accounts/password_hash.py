"""The hash of a password: Argon2id, in memory that every thread of the web server may take at the same time."""

from django.contrib.auth.hashers import Argon2PasswordHasher


class Argon2Hasher(Argon2PasswordHasher):
    """Twice the work that OWASP's password storage cheat sheet asks for at this memory.

    Django's own parameters take 100 MiB in eight threads: eight log-ins at once made a process of 93 MB one of 840 MB.
    """

    time_cost = 2
    memory_cost = 46 * 1024
    parallelism = 1
