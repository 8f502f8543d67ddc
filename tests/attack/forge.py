"""Decisions that nobody made: what an attacker without an approver's key can put together from what is public."""

import base64
import json
import time
from typing import Any

from joserfc.jwk import OKPKey

from policies.approvals import Approval, DecisionClaims, sign_decision

__all__ = ["forgeries", "mallorys_key"]


def mallorys_key(kid: str = "mallory-1") -> OKPKey:
    """A key of the attacker's own, under any name."""
    return OKPKey.generate_key("Ed25519", {"kid": kid})


def claims(run_id: str, approval: Approval, **changes: Any) -> DecisionClaims:
    """What an approver would sign."""
    now = int(time.time())
    return DecisionClaims.model_validate(
        {
            "act": approval.request.action_digest,
            "run": run_id,
            "approval_id": approval.request.approval_id,
            "decision": "approve",
            "nonce": "0123456789abcdef",
            "iat": now,
            "exp": now + 600,
            **changes,
        }
    )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(header: dict[str, Any], body: DecisionClaims, signature: bytes = b"\1" * 64) -> str:
    return ".".join((_b64(json.dumps(header).encode()), _b64(body.model_dump_json().encode()), _b64(signature)))


def forgeries(run_id: str, approval: Approval, kid: str) -> dict[str, Any]:
    """Payloads of `decide` by name; `kid` is the public name of an approver's key."""
    body = claims(run_id, approval)
    known = {"alg": "Ed25519", "kid": kid, "typ": "approval+jws"}
    own = mallorys_key()
    public = own.as_dict(private=False)
    tokens: dict[str, Any] = {
        "own key": sign_decision(body, own),
        "own key under an approver's name": sign_decision(body, mallorys_key(kid)),
        "own key in the header": _token({**known, "jwk": public}, body),
        "alg none": _token({**known, "alg": "none"}, body, b""),
        "alg None": _token({**known, "alg": "None"}, body, b""),
        "alg HS256": _token({**known, "alg": "HS256"}, body),
        "alg EdDSA": _token({**known, "alg": "EdDSA"}, body),
        "no typ": _token({"alg": "Ed25519", "kid": kid}, body),
        "no kid": _token({"alg": "Ed25519", "typ": "approval+jws"}, body),
        "kid as a path": _token({**known, "kid": "../keys/ana@example.com.json"}, body),
        "kid as a name": _token({**known, "kid": "ana@example.com"}, body),
        "no signature": _token(known, body, b""),
        "zero signature": _token(known, body, b"\0" * 64),
        "critical header": _token({**known, "crit": ["b64"], "b64": False}, body),
        "not a token": "approved",
        "true": True,
        "object": {"sub": "ana@example.com", "decision": "approve"},
    }
    name = approval.request.approval_id
    payloads: dict[str, Any] = {how: {"approval_id": name, "decision_jws": token} for how, token in tokens.items()}
    payloads["bare approver"] = {"approval_id": name, "approver": "ana@example.com"}
    payloads["bare boolean"] = True
    payloads["status"] = {
        "approval_id": name,
        "decision_jws": tokens["own key"],
        "status": "approved",
        "sub": "ana@example.com",
    }
    payloads["several"] = [payloads["own key"]]
    return payloads
