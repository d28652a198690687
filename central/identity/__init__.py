"""Who central is and which boxes it knows: its private CA, its keys, the gateways' certificates."""
