"""What Stripe knows of a customer as a person: name, e-mail, phone and addresses. No request is made here."""

import stripe

from tools.subjects import PersonalDetail, record

__all__ = ["details_of"]


def details_of(customer: stripe.Customer) -> tuple[PersonalDetail, ...]:
    """The customer's own details, and those of the shipping address where they differ."""
    shipping = customer.shipping
    own = record(name=customer.name or "", email=customer.email or "", phone=customer.phone or "", **_place(customer.address))
    sent_to = record(name=shipping.name or "", phone=shipping.phone or "", **_place(shipping.address)) if shipping else ()
    return tuple(dict.fromkeys((*own, *sent_to)))


def _place(address: stripe.Customer.Address | stripe.Customer.Shipping.Address | None) -> dict[str, str]:
    if address is None:
        return {}
    street = " ".join(filter(None, (address.line1, address.line2)))
    return {"street": street, "postal_code": address.postal_code or "", "city": address.city or ""}
