"""Django's settings, all of them derived from the one `Config`."""

import sys
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from duckmesh.kernel.config import ConfigError, load_config
from duckmesh.kernel.logs import configure_logs
from duckmesh.kernel.telemetry import TelemetryMissing, export_spans
from duckmesh.postgresql.address import parts

try:
    DUCKMESH = load_config()
except ConfigError as exc:
    sys.exit(f"duckmesh: {exc}")

ROOT = Path(__file__).resolve().parent.parent
DEBUG = DUCKMESH.debug
# Without a configured key nothing that outlives this process can be made; the services refuse to start (duckmesh.wsgi).
SECRET_KEY = DUCKMESH.secret_key or get_random_secret_key()
ALLOWED_HOSTS = [name.strip() for name in DUCKMESH.allowed_hosts.split(",") if name.strip()]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_prometheus",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "duckmesh",
    "catalog",
    "ingest",
    "query",
    "maintenance",
    "api",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    # Above all that answers, so that no answer is without their headers.
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "api.headers.PagePolicy",
    "api.middleware.RequestContext",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "api.middleware.OperatorsActForAll",
    "api.middleware.ViewMetrics",
]
# Fewer buckets than the package's 28: each view and method has all of them.
PROMETHEUS_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, float("inf"))
PROMETHEUS_EXPORT_MIGRATIONS = False  # readiness says it, and a process's gauge would outlive the process

ROOT_URLCONF = "duckmesh.urls"
WSGI_APPLICATION = "duckmesh.wsgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "duckmesh.postgresql",
        **parts(DUCKMESH.database_url),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "application_name": "duckmesh",
            # What a 200 and a token promise rests on these two, whatever the server's defaults are.
            "options": "-c synchronous_commit=on -c default_transaction_isolation=read\\ committed",
        },
    }
}
ATOMIC_REQUESTS = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# Cookies are the admin's alone: a request of the API carries none, and no script reads one.
SESSION_COOKIE_NAME = "duckmesh_session"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_NAME = "duckmesh_csrf"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = "/admin/"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = DUCKMESH.https
SECURE_HSTS_SECONDS = 365 * 86_400 if DUCKMESH.https else 0  # sent over TLS only
# Who the proxy is, is not known here; so this header is believed only where an operator says that there is one.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if DUCKMESH.https else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    "drf_spectacular.W001",  # which name of several an enumeration has in the OpenAPI document
    "security.W005",  # HSTS for subdomains: the other hosts of the domain are not ours to speak for
    "security.W008",  # no redirect to HTTPS: a key that came over plain HTTP is known by then, so callers must fail
    "security.W021",  # nor are browsers' preload lists
]

DATA_UPLOAD_MAX_MEMORY_SIZE = None  # bodies are bounded by our own parser, with our own error

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["api.auth.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["api.auth.HasRole"],
    "DEFAULT_RENDERER_CLASSES": ["api.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["api.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "DuckMesh",
    "DESCRIPTION": "Analytics ingestion and query plane: durable writes with visibility tokens, SQL on snapshots.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

LOGGING_CONFIG = None
configure_logs(level=DUCKMESH.log_level, json=DUCKMESH.log_json)
try:
    export_spans(endpoint=DUCKMESH.otlp_endpoint)
except TelemetryMissing as exc:
    sys.exit(f"duckmesh: {exc}")
