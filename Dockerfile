# One image for web, worker, beat, Flower and the migrations; the command says which. No value of any environment is in it.

FROM python:3.13.16-slim-trixie AS packages
RUN python -m venv /venv
COPY requirements.txt /
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt


FROM python:3.13.16-slim-trixie
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin postcommit

# ENV_FILES: there is no .env in the image, and none is looked for.
# PORT: gunicorn then listens on every address of the container; a platform may set another one.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENV_FILES="" \
    PORT=8000

WORKDIR /app
COPY --from=packages /venv /venv
COPY . .

# The settings want values before they load. These live for one command; collecting files opens no connection.
RUN SECRET_KEY="$(python -c 'import secrets; print(secrets.token_urlsafe(48))')" SITE_URL=https://build.invalid \
    DATABASE_URL=postgres://build.invalid/none REDIS_URL=redis://build.invalid EMAIL_URL=smtp://build.invalid \
    DEFAULT_FROM_EMAIL=nobody@build.invalid \
    python manage.py collectstatic --no-input

USER 10001
EXPOSE 8000
CMD ["gunicorn", "config.wsgi"]
