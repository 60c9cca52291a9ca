"""Credentials and endpoint of S3, from the environment, AWS's own files or the machine's role, as boto3 finds them.

obstore, DuckDB and Lance are each told of them in their own words; nothing of them is written down.
"""

from __future__ import annotations

import os
from typing import Any

from warehouse.errors import UsageError


def credential_provider() -> Any:
    """Return what asks boto3 for credentials, which knows the environment, AWS's own files, and the machine's role; None: it has none."""
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        return None
    session = boto3.Session()
    return Boto3CredentialProvider(session) if session.get_credentials() else None


def s3_options() -> dict[str, str]:
    """Return credentials and endpoint of S3, as DuckDB names them: from the environment, AWS's own files, or the machine's role.

    Raises:
        UsageError: The packages for object stores are not installed.
    """
    try:
        import boto3
    except ModuleNotFoundError:
        raise UsageError("Warehouses at s3:// need more packages: pip install 'trace-warehouse[s3]'") from None
    session, options = boto3.Session(), dict[str, str]()
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
