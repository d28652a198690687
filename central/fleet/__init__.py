"""The boxes' heartbeats: heard over MQTT, kept, and shown as one view a box."""
