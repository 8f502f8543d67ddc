# The worker of docker-compose.yml. It holds no secret: keys and addresses come from the environment at run time.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    REMIT_HOME=/var/lib/remit \
    HOME=/var/lib/remit

# A new named volume takes its owner from this folder, which is why it is made here.
RUN groupadd --gid 10001 remit \
    && useradd --uid 10001 --gid remit --no-create-home --home-dir /var/lib/remit --shell /usr/sbin/nologin remit \
    && install --directory --owner=remit --group=remit --mode=0700 /var/lib/remit

WORKDIR /app

# Before the sources, so that a change of code doesn't install everything again.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

# What is copied is named in .dockerignore; the files stay root's, so that the worker can't change its own code.
COPY . .

USER 10001:10001
VOLUME ["/var/lib/remit"]
CMD ["python", "worker.py"]
