"""HTTP routes: each module gives one Router and knows nothing about adapters."""
