from cachenet.edge_agent.cli import main

main()
