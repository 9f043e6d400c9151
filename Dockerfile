# One image for web, worker, beat, Flower and the migrations. It contains no setting of any environment.

# Another registry may have it under another name.
ARG PYTHON_IMAGE=python:3.13.16-slim-trixie

FROM ${PYTHON_IMAGE} AS packages
RUN python -m venv /venv
COPY requirements.txt /
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt \
    && /venv/bin/pip uninstall --yes --quiet pip


FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin postcommit

# ENV_FILES: the image has no .env.
# PORT: makes gunicorn listen on all addresses of the container. A platform may set another port.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENV_FILES="" \
    PORT=8000

WORKDIR /app
COPY --from=packages /venv /venv
COPY . .

# The settings need values. These are for this command alone, which opens no connection.
RUN SECRET_KEY="$(python -c 'import secrets; print(secrets.token_urlsafe(48))')" SITE_URL=https://build.invalid \
    DATABASE_URL=postgres://build.invalid/none REDIS_URL=redis://build.invalid EMAIL_URL=smtp://build.invalid \
    DEFAULT_FROM_EMAIL=build@build.invalid \
    python manage.py collectstatic --no-input

USER 10001
EXPOSE 8000
CMD ["gunicorn", "config.wsgi"]
