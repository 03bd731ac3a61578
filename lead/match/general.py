"""What is asked where nobody gives prompts: everyday requests of several kinds, in a fixed order."""

from __future__ import annotations

GENERAL = (
    "Explain how a refrigerator keeps food cold, in simple words.",
    "Write a Python function that returns the n-th Fibonacci number, and explain it.",
    "Summarise in three sentences why the sky is blue.",
    "What are the advantages and disadvantages of working from home?",
    "Translate into French: The train leaves at seven, and we should not be late.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "List five healthy breakfast ideas, each with its main ingredients.",
    "A shop sells pens at 3 for 2 euros. How much do 12 pens cost? Show the steps.",
    "Write an SQL query that lists the ten customers with the highest total of orders.",
    "Describe the water cycle to a child of eight years.",
    "Write a polite e-mail that asks a landlord to repair a broken heater.",
    "What is the difference between a virus and a bacterium?",
    "Give me a packing list for a weekend of hiking in autumn.",
    "Explain recursion, with an example in JavaScript.",
    "Who was Marie Curie, and what is she known for?",
    "Write a product description for a wooden desk lamp.",
    "How do I change a flat bicycle tyre? Give numbered steps.",
    "Return a JSON object with the name, capital and population of three countries in Europe.",
    "Name three causes of the First World War, with one sentence for each.",
    "Write a bash command that finds all files larger than 100 MB below the current folder, and explain it.",
    "What should I consider before I adopt a dog?",
    "Rewrite more formally: hey, can't make it tomorrow, something came up, sorry!",
    "Compare solar and wind power in a short table.",
    "Plan a three-day trip to Lisbon, day by day.",
)
