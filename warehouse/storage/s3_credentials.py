"""Credentials and endpoint of S3, from the environment, AWS's own files or the machine's role, as boto3 finds them.

obstore, DuckDB and Lance are each told of them in their own words; nothing of them is written down.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from warehouse.errors import UsageError, first_line


def credential_provider() -> Any:
    """Return what asks boto3 for credentials, which knows the environment, AWS's own files, and the machine's role; None: it has none.

    Raises:
        UsageError: The credentials cannot be had.
    """
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        return None
    with _said_in_a_line():
        session = boto3.Session()
        return Boto3CredentialProvider(session) if session.get_credentials() else None


def s3_options() -> dict[str, str]:
    """Return credentials and endpoint of S3, as DuckDB names them: from the environment, AWS's own files, or the machine's role.

    Raises:
        UsageError: The packages for object stores are not installed, or the credentials cannot be had.
    """
    try:
        import boto3
    except ModuleNotFoundError:
        raise UsageError("Warehouses at s3:// need more packages: pip install 'trace-warehouse[s3]'") from None
    options = dict[str, str]()
    with _said_in_a_line():
        session = boto3.Session()
        if credentials := session.get_credentials():
            frozen = credentials.get_frozen_credentials()
            options |= {"KEY_ID": frozen.access_key or "", "SECRET": frozen.secret_key or ""}
            if frozen.token:
                options["SESSION_TOKEN"] = frozen.token
    if region := os.environ.get("AWS_REGION") or session.region_name:
        options["REGION"] = region
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        scheme, _, host = endpoint.partition("://")
        options |= {"ENDPOINT": host.rstrip("/"), "USE_SSL": str(scheme == "https").lower(), "URL_STYLE": "path"}
    return options


@contextlib.contextmanager
def _said_in_a_line() -> Iterator[None]:
    """Raise UsageError in place of what boto3 raises over a profile that is not there, half of a key, or a login that is over."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as e:
        raise UsageError(f"There are no credentials for S3: {first_line(e)}") from None
