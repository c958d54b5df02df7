"""The fleet whose documents are fuzzed: that of the vectors, whose private keys everybody can derive.

Everything that an input is judged by is the same in each process, so a find can be read again tomorrow: the keys, the
fleet, the device authority (its key and name; its certificate is made anew, and nothing rests on its bytes).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from narrowboat_bridge.pki import Authority, issue_client
from narrowboat_bridge.server.operators import OperatorDesk
from narrowboat_protocol import documents as doc
from narrowboat_protocol.trust import Freshness, Trust
from tests.vectors.documents import ASSIGNMENT, FLEET_ID, ROOT
from tests.vectors.seeds import NOW, OPERATOR, ROLES, SECOND_RELEASE_KEY, seeded

RELEASE_KEYS = (ROLES[doc.RoleName.RELEASE], SECOND_RELEASE_KEY)
ROOT_DATA = doc.sign_model(ROOT, FLEET_ID, [ROLES[doc.RoleName.ROOT]])
OPERATORS = doc.Operators(
    version=1,
    operators=(doc.Operator(name="ada", cose_key=OPERATOR.public.to_cbor(), role=doc.OperatorRole.OPERATOR),),
)
FRESHNESS = Freshness(nonces=(ASSIGNMENT.nonce,), counter=ASSIGNMENT.counter - 1, accepted=None, certain_s=NOW)
_AUTHORITY_DAYS = 3650
_REPLAYS_MAX = 100


TRUST = Trust(ROOT_DATA)
"""What a gateway or a bridge believes that holds the fleet's first root. Not for updating."""
OPERATORS_DATA = doc.sign_model(OPERATORS, FLEET_ID, [ROLES[doc.RoleName.ADMIN]])


def desk() -> OperatorDesk:
    """A bridge's desk that has seen no command yet."""
    return OperatorDesk(TRUST, OPERATORS_DATA, None, (), _REPLAYS_MAX)


@cache
def authority() -> Authority:
    """The device authority."""
    key = _p256("device authority")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device-ca")])
    begins = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begins, begins + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def device_certificate() -> bytes:
    """A certificate that the authority issued, DER."""
    pem = issue_client(authority(), "gw-1", _p256("device gw-1").public_key(), NOW)
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _p256(label: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(seeded(label), "big") >> 1, ec.SECP256R1())
