"""What the boxes talk to: enrolment, uploads of sealed objects, receipts. Behind the gateways' own listener."""
