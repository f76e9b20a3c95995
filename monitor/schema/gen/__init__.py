"""The QMP schema's generator: one small module for each product."""
